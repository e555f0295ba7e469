"""The framework: phases, modules, pipelines, the mediator, the address space, the image."""
