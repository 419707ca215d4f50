"""The benchmark: ratios that travel, not absolutes that don't."""
