"""What a training run is: the schedule, the strategy and the job handed to a detector family."""
