"""How to personalise, given values: pure and replayable. Knows no broker, no state store and no training."""

__all__: list[str] = []
