//! Black-box tests: the real gateway on real sockets, with real Wasm and scripted vendors.
