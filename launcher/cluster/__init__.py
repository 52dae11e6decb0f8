"""How processes start, find each other, and end."""
