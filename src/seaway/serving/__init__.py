"""The data plane: predictor, worker, queue, pool, router. Each process imports only the modules it needs."""
