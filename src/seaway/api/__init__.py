"""HTTP in front of the rooms below: the gateway's application and control's.

gateway     the gateway's FastAPI application    infer, protocol   its routes    edge   what comes before any route
management  control's FastAPI application        datasets, models, aliases, experiments, deployments, repository,
                                                 operations        its routes    schemas   what they answer
errors      the one place that knows statuses    explain           pydantic's findings as sentences
bodies      reading requests raw                 objects           JSON that can be kept and read again
requests    what bodies and parameters may be
uploads     multipart to disk                    intake, pickles   from an upload to a version, and what is refused
views       writing answers
"""
