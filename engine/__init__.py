"""How to personalise, given values: pure and replayable; it knows no broker, no Faust and no torch."""
