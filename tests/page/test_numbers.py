import re

import made_results as made
from made_results import page_of, text_of

from treadle.core.result import (
    Column,
    Entry,
    Table,
    write_result,
)
from treadle.page.numbers import bytes_unit, clock, decimals_for, fixed, interval, plain
from treadle.page.wording import facts


class TestNumbers:
    def test_numbers_read_well(self):
        assert interval(26.123, 25.04, 27.31, 1) == "26.1 [25.0, 27.3]"
        assert fixed(1234.5678, 1) == "1,234.6"
        assert fixed(-2.5, 2) == "−2.50"
        assert fixed(0.0004, 2) == "<0.01"
        assert fixed(30_064_430.0, 0) == "30,064,430"
        assert fixed(3.006e12, 0) == "3.01×10¹²"
        assert fixed(25.0, 1, powers=True) == "2.50×10¹"
        assert interval(9e8, 8e8, 2e9, 0) == "9.0000×10⁸ [8.0000×10⁸, 2.0000×10⁹]"
        assert plain(123_456.7, powers=False) == "123,457"
        assert plain(0.5, powers=True) == "5.000×10⁻¹"
        assert fixed(float("inf"), 0) == "infinite"
        assert plain(0.5) == "0.5"
        assert plain(12345) == "12,345"
        assert plain(0.00001234) == "1.234×10⁻⁵"
        assert decimals_for([0.02, 3.0]) == 2
        assert decimals_for([250.0]) == 0
        assert bytes_unit([5e8])[0] == "GB"
        assert bytes_unit([3e5])[0] == "MB"
        assert clock(12.34) == "12.3 s"
        assert clock(600) == "10.0 min"
        assert clock(9000) == "2.5 h"

    def test_facts_shorten_hashes_and_write_units(self):
        found = facts({"sha256": "a" * 64, "window_tokens": 64, "num_windows": 8, "bos": False})
        assert [(f.name, f.text) for f in found[:3]] == [
            ("window", "64 tokens"),
            ("windows", "8"),
            ("bos", "no"),
        ]
        assert found[3].full == "a" * 64
        assert len(found[3].text) == 8


class TestTablesOfResults:
    TABLE = Table(
        title="Two <methods>",
        columns=[
            Column(name="method"),
            Column(name="loss", unit="nats", better="lower"),
            Column(name="loss minus baseline", better="lower", neutral=0.0),
            Column(name="size", unit="bytes"),
        ],
        rows=[
            [
                Entry(value="good", note="baseline"),
                Entry(value=1.5, low=1.25, high=1.75),
                Entry(),
                Entry(value=5_000_000.0),
            ],
            [
                Entry(value="bad", note="control"),
                Entry(value=2.5, note="one run"),
                Entry(value=1.0, low=0.5, high=1.5),
                Entry(value=2_500_000.0),
            ],
        ],
        notes=["Means over seeds."],
        losses=["bad loses to good."],
    )

    def test_a_table_is_shown_as_it_is_held(self, tmp_path):
        told = made.result(verb="sweep", method="", settings={}, tables=[self.TABLE])
        write_result(told, tmp_path / "sweep")
        page = page_of(tmp_path / "sweep")
        shown = text_of(page)
        assert "Two <methods>, measured" in shown
        assert "good baseline 1.50 [1.25, 1.75] – 5" in shown
        assert "bad control 2.5 one run 1.0 [0.5, 1.5] 2.5" in shown
        assert "size MB" in shown
        assert "Means over seeds." in shown
        assert re.search(r'<td class="number worse">1\.0', page)
        assert "Sweep ran 1 time." in shown
        assert "Where it loses, and to what Two <methods>: bad loses to good." in shown
        assert "Nothing to compare" not in shown

    def test_pages_without_tables_have_no_section_for_them(self, study_page):
        assert 'id="table-1"' not in study_page
