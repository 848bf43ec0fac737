"""States of an order, found by going through it one operation at a time: what walks are held against."""
