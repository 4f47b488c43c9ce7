"""What the README says is so: its queries run, and it lists every setting. Settings that pages give can be used."""

import re
import shlex
from pathlib import Path

import duckdb
import pytest

from pinnersage_assets.__main__ import main
from pinnersage_assets.settings import Section, Settings, load_settings

ROOT = Path(__file__).parents[2]
README, OPERATIONS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "OPERATIONS.md"))
QUERIES = re.findall(r"```sql\n(.*?)```", README, flags=re.DOTALL)


# In blocks and in the text, also where a line goes on in the next.
COMMANDS = [
    command.replace("\\\n", " ")
    for command in re.findall(
        r"(?:^|`)((?:make [a-z]|(?:\.venv/bin/)?python -m pinnersage_assets )(?:\\\n|[^`\n])*)",
        README + OPERATIONS,
        flags=re.M,
    )
]


def settings_rows() -> list[str]:
    """The README's table of settings, as the settings themselves have it."""
    rows = [f"| `seed` | {Settings().seed} | {Settings.model_fields['seed'].description} |"]
    rows.append(f"| `models` | {{}} | {Settings.model_fields['models'].description} |")
    for section, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            for name, setting in type(field.default).model_fields.items():
                default = str(setting.default).replace("'", '"')
                rows.append(f"| `{section}.{name}` | {default} | {setting.description} |")
    return rows


def test_every_setting_is_in_the_readme_as_it_is():
    missing = [row for row in settings_rows() if row not in README.splitlines()]
    assert not missing, "README.md should say:\n" + "\n".join(missing)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", README + OPERATIONS, flags=re.DOTALL))
def test_settings_of_the_readme_can_be_used(text, tmp_path):
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    assert load_settings(tmp_path / "settings.toml") != Settings()


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_of_the_readme_exists_with_its_options(command):
    command = command.partition("#")[0]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if command.startswith("make "):
        _, target, *variables = shlex.split(command.partition(";")[0])
        assert re.search(rf"^{re.escape(target)}:.*## ", makefile, flags=re.M), f"make help does not show {target}"
        names = [variable.partition("=")[0] for variable in variables if "=" in variable]
        assert all(f"$({name})" in makefile for name in names), names
    else:
        _, _, arguments = command.partition("pinnersage_assets")
        name, *arguments = shlex.split(arguments)
        options = {
            option
            for parameter in main.commands[name].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {argument for argument in arguments if argument.startswith("--")} <= options


def test_the_readme_has_the_promised_queries():
    assert len(QUERIES) >= 6


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.splitlines()[0])
def test_a_query_of_the_readme_runs_on_the_published_copy(world, query):
    with duckdb.connect(world.warehouse.published, read_only=True) as published:
        columns = [name for name, *_ in published.sql(query).description]
        # The dates and ids of the demo are not those of the small world of the tests.
        [(last, user)] = published.execute(
            "SELECT dt, max(user_id) FROM retrieval.recommendations GROUP BY dt ORDER BY dt DESC LIMIT 1"
        ).fetchall()
        rows = published.sql(query.replace("2026-04-10", str(last)).replace("= 42", f"= {user}")).fetchall()
    assert columns
    # In the small world nothing is rejected or stale, and nothing was chosen before the days that are judged.
    assert rows or "rejected" in query or "stale_partitions" in query or "model = 'calibrated'" in query
