"""The page of all settings is what the classes say, and a process reads what the page says."""

import pytest
from pydantic import ValidationError
from settings_table import FILE, SECTIONS, settings_page, variables

from sangsang.services.runtime.settings import OTLP_VARIABLES, ProcessSettings


def test_the_page_is_not_stale():
    assert FILE.read_text("utf-8") == settings_page(), "run `make settings`"


@pytest.mark.parametrize("kind", SECTIONS.values(), ids=SECTIONS)
def test_every_setting_is_explained(kind):
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith("."), name


@pytest.mark.parametrize("kind", SECTIONS.values(), ids=SECTIONS)
def test_every_variable_is_read(kind, monkeypatch):
    """A value that no field takes is refused by the field that reads it, and only there."""
    for name, field in kind.model_fields.items():
        if field.annotation not in (int, float, bool):
            continue
        for variable in variables(name, field):
            with monkeypatch.context() as patch, pytest.raises(ValidationError) as refused:
                patch.setenv(variable, "nonsense")
                kind()
            assert refused.value.error_count() == 1
            assert name.lower() in str(refused.value.errors()[0]["loc"]).lower()


@pytest.mark.parametrize("variable", OTLP_VARIABLES)
def test_the_collector_has_a_name_of_its_own_and_the_standard_ones(variable, monkeypatch):
    monkeypatch.setenv(variable, "http://localhost:4317")
    assert ProcessSettings().otlp_endpoint == "http://localhost:4317"


def test_a_variable_without_our_prefix_is_not_read(monkeypatch):
    monkeypatch.setenv("OTLP_ENDPOINT", "http://localhost:4317")
    monkeypatch.setenv("PORT", "1")
    assert ProcessSettings().otlp_endpoint == ""
    assert ProcessSettings().port == 0
