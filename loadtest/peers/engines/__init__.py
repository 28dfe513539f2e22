"""One module per engine, each of which runs in the environment of that engine alone.

    convert(checkpoint, model, precision)  make the files that the engine loads
    load(model, variant, precision, threads)  a Runner, ready to generate
    PACKAGES  distributions whose versions belong to the figures

A module says in its docstring which settings it uses and why they are the engine's best.
"""
