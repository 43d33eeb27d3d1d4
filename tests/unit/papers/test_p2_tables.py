"""The command that writes P2's part of the page."""

from papers.p2.tables import BEGIN, END, main
from papers.page import write_part


def test_the_command_writes_every_table(tmp_path, capsys):
    page = tmp_path / "papers.md"
    main(
        [
            "--sizes",
            "2,2,2",
            "--seeds",
            "1",
            "--exact-seconds",
            "5",
            "--scenarios",
            "2",
            "--windows",
            "2",
            "--write",
            str(page),
        ]
    )
    text = page.read_text()
    printed = capsys.readouterr()
    assert printed.out.strip() == text[text.index(BEGIN) :].strip()
    assert "s of CPU: size (2, 2, 2), seed 0" in printed.err
    for heading in (
        "### Runtimes (Table 5)",
        "### Costs and gaps",
        "### Ablation (Table 3), size (2, 2, 2), 1 seeds",
        "### Rolling horizon (Table 4), size (2, 2, 2), 2 windows",
        "### Stress protocol (figure 2), S = 2",
        "### Tight budgets under stress (Table 2), S = 2",
        "### Sensitivity",
    ):
        assert heading in text
    assert "1 of 1 proved" in text
    assert all(line.count("|") == text.splitlines()[n - 1].count("|") for n, line in _table_bodies(text))


def test_only_its_own_part_is_replaced(tmp_path):
    page = tmp_path / "papers.md"
    page.write_text(f"# Title\n\nabove\n\n{BEGIN}\nold\n{END}\n\n## P1\n")
    write_part(page, "P2", f"{BEGIN}\nnew\n{END}\n")
    write_part(page, "P2", f"{BEGIN}\nnewer\n{END}\n")
    assert page.read_text() == f"# Title\n\nabove\n\n{BEGIN}\nnewer\n{END}\n\n## P1\n"


def _table_bodies(text):
    lines = text.splitlines()
    return [(n, line) for n, line in enumerate(lines) if line.startswith("|") and n and lines[n - 1].startswith("|")]
