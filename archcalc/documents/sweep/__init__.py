"""What plots show: each case has a row at each length or rank; table and picture both follow from the rows."""
