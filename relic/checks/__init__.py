"""What `relic doctor` looks at: functions that yield `Check`s."""
