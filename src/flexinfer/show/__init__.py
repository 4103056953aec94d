"""Plans as people look at them: terminal picture, tables, PNG."""
