"""The process and the interpreter that run us: its identity, its clock, how calls end and what interrupts them."""
