"""Tables: row groups of bounded size, and joins by id."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateau.tables import places_of, read_rows, table_schema, write_rows

TEXTS = table_schema(id=(pa.string(), "id"), text=(pa.string(), "text"))


@pytest.mark.parametrize(("characters", "sizes"), [(10, [1024, 1024, 52]), (10**6, [4, 4, 1]), (10**7, [1, 1])])
def test_a_row_group_is_full_when_it_has_many_rows_or_much_text(tmp_path, characters, sizes):
    """A reader of a million samples must not hold the metadata of many small row groups, nor many long texts."""
    rows = [{"id": str(number), "text": "x" * characters} for number in range(sum(sizes))]
    write_rows(tmp_path / "texts.parquet", TEXTS, rows)
    written = pq.ParquetFile(tmp_path / "texts.parquet").metadata
    assert [written.row_group(number).num_rows for number in range(written.num_row_groups)] == sizes
    assert read_rows(tmp_path / "texts.parquet", TEXTS) == rows


@pytest.mark.parametrize("together", [1, 3, 100])
@pytest.mark.parametrize("container", [list, pa.array, pd.Series, pd.Index])
def test_places_do_not_depend_on_how_many_ids_are_hashed_at_a_time(container, together):
    among = container(["d", "a", "c", "b", "é"])
    assert places_of(["a", "é", "z", "d", "a"], among, together).tolist() == [1, 4, -1, 0, 1]
    assert places_of([], among, together).tolist() == []
    assert places_of(["a"], [], together).tolist() == [-1]
