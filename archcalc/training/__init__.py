"""Training memory: plans, placement, savers, schedules, the worst moment of every rank."""
