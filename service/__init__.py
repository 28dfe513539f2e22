"""HTTP over the library: `POST /generate` and the endpoints around it. Run it with `python -m service`.

A request's way: middleware (id, body, the shortcut past FastAPI) → routes → generation (command, engine,
scoring, rank) → answer or problem.
"""
