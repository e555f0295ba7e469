"""The modules that come with Spidl; plug-ins like any other, they import only `spidl.api`."""
