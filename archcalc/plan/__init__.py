"""Where a model sits: plans, placement, savers, schedules, serving."""
