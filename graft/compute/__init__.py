"""Where, how precisely and how fast is computed."""
