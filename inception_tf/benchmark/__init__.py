"""How fast engines are beside one another: child processes that take turns, and how much others disturbed them."""
