"""Where values come from and go to: topics, tables, agents, web and command line; it makes no model."""
