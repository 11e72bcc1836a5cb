"""Checks of a file's sizes, types and names before anything in it is parsed, built or opened.

`archive` checks a checkpoint's bytes (`xlabml.checkpoints.schema` checks its values, with `kinds`), `matching` compares
its settings with signatures, `building` limits the size of what is built from it, `yaml_text` reads settings that a
user typed or a run saved. SECURITY.md lists what is trusted and what is not.
"""
