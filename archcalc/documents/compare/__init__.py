"""What `archcalc diff` is made of: two sides, their numbers, parts and fields, and the limits set on a change."""
