"""Measurements of whole commands: real worker processes, real brokers, an open-loop generator. Nothing here is part of the product."""
