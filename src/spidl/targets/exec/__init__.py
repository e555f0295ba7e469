"""The exec target: an ELF file at fixed addresses, with boot code that performs the actions."""
