"""What a training run is: the schedule, the method and the job handed to a detector family."""
