"""Open data from its public homes: `python -m training fetch`.

`table` (what there is, in `sources.toml`) -> `download` (resumed, checked, pinned) -> `convert` (the folder's form).
"""
