def report_text(f): return ""
def write_into(*a): pass
