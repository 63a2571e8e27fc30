"""What a missed key cost: a model runs while its attention sees only what a selector picks."""
