"""A language model as the judge of relevance: `python -m training judge`.

`rubric` (what is asked, what counts as an answer) -> `verdicts` (asked once, averaged over two orders, kept, and made
labels) -> `report` (agreement with the embedding scorer).
"""
