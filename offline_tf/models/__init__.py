"""Networks, how they are fitted, and what is learned where a task is silent."""
