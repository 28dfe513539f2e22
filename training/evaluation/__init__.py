"""How good a bundle is: `python -m training evaluate BUNDLE` and `python -m training fluency SHEET KEY`.

`subjects` (inputs and references) -> `plan` (what is asked) -> `answers` (what came, measured) -> `steering` and
`quality` (figures with intervals) -> `verdict` (the bars) -> `report` (Markdown and HTML). `comparison` sets two
bundles side by side, `fluency` is for a reader who must not know who wrote what.
"""
