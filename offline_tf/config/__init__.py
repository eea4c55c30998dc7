"""How a knob is declared, and the knobs that both algorithms share."""
