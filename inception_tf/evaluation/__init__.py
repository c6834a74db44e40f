"""How good a classifier is: metrics, and the report with its pictures."""
