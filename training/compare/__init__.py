"""A student beside large models: `python -m training compare --baseline llama-3=URL --student BUNDLE`.

`tasks` (inputs with references, and the request that each system gets) -> `baselines` and `student` (their answers,
timed, each in a journal) -> `figures` (per system, and student − baseline with paired intervals) -> `report`.
"""
