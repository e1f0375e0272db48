"""What a run writes down about itself: metrics, speed, devices, environment, progress, and the report over them."""
