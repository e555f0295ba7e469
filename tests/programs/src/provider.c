int provided_later(void) { return 99; }
