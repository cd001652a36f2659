import tomllib

from hypothesis import given
from hypothesis import strategies as st

from training import toml

plain = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs",))),
)  # fmt: skip
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.dictionaries(names, st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(names, plain, max_size=4))))
def test_settings_that_are_written_are_read_back_as_they_were(values):
    assert tomllib.loads(toml.text(values)) == values


@given(st.lists(plain, min_size=20, max_size=40))
def test_a_long_list_is_read_back_as_it_was(values):
    assert tomllib.loads(toml.text({"x": values})) == {"x": values}
