"""Step distillation: from a guided model of many steps to an unguided one of a few."""
