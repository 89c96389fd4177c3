"""HTTP in front of the rooms below: the gateway's application and control's.

gateway     the gateway's FastAPI application    infer, protocol    its routes    edge    what comes before any route
management  control's FastAPI application        datasets, models, experiments, deployments, repository, operations
errors      the one place that knows statuses    bodies, uploads    reading requests    views    writing answers
"""
