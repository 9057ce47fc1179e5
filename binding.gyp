{
  # The build from a checkout. One static library per instruction set from the same sources; see docs/adr/0004.
  "variables": {
    "openssl_fips": "",
    # all; or, from scripts/setup.mjs, the one set of this machine (beside the reference), which takes a third of the time
    "og_sets": "<!(node -p \"process.env.OG_SETS || 'all'\")",
    "kernel_flags": ["-std=c++17", "-O3", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-ffp-contract=off",
                     "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"]
  },
  "target_defaults": {
    "include_dirs": ["native/include", "native"],
    "defines": ["NAPI_VERSION=9"],
    # An exclusion also removes what is listed here, so only flags that kernel_flags does not have may be excluded.
    "cflags!": ["-fno-omit-frame-pointer"],
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-omit-frame-pointer"],
    "cflags_cc": ["<@(kernel_flags)"],
    "xcode_settings": {
      "CLANG_CXX_LANGUAGE_STANDARD": "c++17", "GCC_OPTIMIZATION_LEVEL": "3",
      "GCC_SYMBOLS_PRIVATE_EXTERN": "YES", "MACOSX_DEPLOYMENT_TARGET": "11.0", "OTHER_CPLUSPLUSFLAGS": ["<@(kernel_flags)"]
    }
  },
  "targets": [
    {
      "target_name": "og_reference", "type": "static_library",
      "sources": ["<!@(node native/sources.cjs kernels)"],
      "defines": ["OG_ISA=reference", "OG_IS_REFERENCE=1"],
      "cflags_cc": ["-O2"]  # plain loops for all dtypes: at -O3 they take three times as long to compile
    },
    {
      "target_name": "omnigrad", "type": "loadable_module",
      "sources": ["<!@(node native/sources.cjs core)", "<!@(node native/sources.cjs binding)"],
      "dependencies": ["og_reference"],
      "conditions": [
        ["og_sets=='all'", { "dependencies": ["og_baseline"] }, { "defines": ["OG_NO_BASELINE"] }],
        ["target_arch=='x64' and og_sets!='avx512'", { "dependencies": ["og_avx2"] }, { "defines": ["OG_NO_AVX2"] }],
        ["target_arch=='x64' and og_sets!='avx2'", { "dependencies": ["og_avx512"] }, { "defines": ["OG_NO_AVX512"] }],
        ["OS=='linux'", { "ldflags": ["-Wl,-z,nodelete", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"] }]
      ]
    }
  ],
  "conditions": [
    ["og_sets=='all'", {
      "targets": [{
        "target_name": "og_baseline", "type": "static_library",
        "sources": ["<!@(node native/sources.cjs kernels)"],
        "defines": ["OG_ISA=baseline"]
      }]
    }],
    ["target_arch=='x64' and og_sets!='avx512'", {
      "targets": [
        {
          "target_name": "og_avx2", "type": "static_library",
          "sources": ["<!@(node native/sources.cjs kernels)"],
          "defines": ["OG_ISA=avx2"],
          "cflags_cc": ["-mavx2", "-mfma", "-mf16c"],
          "xcode_settings": { "OTHER_CPLUSPLUSFLAGS": ["<@(kernel_flags)", "-mavx2", "-mfma", "-mf16c"] }
        }
      ]
    }],
    ["target_arch=='x64' and og_sets!='avx2'", {
      "targets": [
        {
          "target_name": "og_avx512", "type": "static_library",
          "sources": ["<!@(node native/sources.cjs kernels)"],
          "defines": ["OG_ISA=avx512"],
          "cflags_cc": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
                        "-mprefer-vector-width=512"],
          "xcode_settings": { "OTHER_CPLUSPLUSFLAGS": ["<@(kernel_flags)", "-mavx2", "-mfma", "-mf16c", "-mavx512f",
                              "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"] }
        }
      ]
    }]
  ]
}
