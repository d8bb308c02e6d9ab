"""What runs next: batches under budgets, preemption, what a request holds, moving it elsewhere."""
