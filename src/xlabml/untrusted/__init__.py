"""What is checked of a file, by size, kind and name, before anything that it says is parsed, built or opened.

`archive` looks at a checkpoint's bytes (its values are checked by `xlabml.checkpoints.schema`, out of `kinds`),
`matching` holds its settings against signatures,
`budget` limits what is built from it, `yaml_text` reads settings that a user typed or a run kept. SECURITY.md says what
is trusted and what is not.
"""
