"""links.toml, which people edit: what is wrong in it is said with its cure."""

import pytest

from deploy import build


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compose]\ngraphana = 'x'\n[kubernetes]\n", "unknown key compose.graphana; did you mean grafana?"),
        ("[compose]\n[kubernetes]\nzz = 'x'\n", "unknown key kubernetes.zz; accepted are runbooks, reports, grafana"),
        ("[compose]\n", "add the table [kubernetes]; it may be empty"),
        ("compose = 'x'\n[kubernetes]\n", "compose is 'x'; accepted is a table, [compose]"),
        ("[compose]\ngrafana = 3\n[kubernetes]\n", "compose.grafana is 3; accepted is a link in quotes"),
        ("[compose\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
    ],
)
def test_a_wrong_table_or_key_is_one_line_and_status_2(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "LINKS", tmp_path / "links.toml")
    build.LINKS.write_text(text)
    assert build.main(["--check"]) == 2
    assert capsys.readouterr().err == f"deploy.build: {build.LINKS}: {message}\n"
