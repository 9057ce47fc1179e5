// Prints source files for binding.gyp, relative to the repository root: `core` (core/*.cpp but the per-ISA table),
// `kernels` (the files kernels.def names, the per-ISA table, and what the kernels of a set share), `binding`.
// CMakeLists.txt reads the same places.
const fs = require('node:fs');
const path = require('node:path');

const here = __dirname;
const cppFiles = (folder, endings) =>
  fs
    .readdirSync(path.join(here, folder))
    .filter((name) => endings.test(name))
    .sort();
const definition = fs.readFileSync(path.join(here, 'kernels.def'), 'utf8');
const kernelFiles = [...new Set([...definition.matchAll(/^OG_KERNEL\((\w+),/gm)].map((match) => match[1]))];

const lists = {
  core: () =>
    cppFiles('core', /\.cpp$/)
      .filter((name) => name !== 'registry_isa.cpp')
      .map((name) => `native/core/${name}`),
  kernels: () => [
    'native/core/registry_isa.cpp',
    'native/cpu/stage.cpp',
    'native/cpu/gemm.cpp',
    ...kernelFiles.map((name) => `native/cpu/${name}.cpp`),
  ],
  binding: () => cppFiles('binding', /\.cc$/).map((name) => `native/binding/${name}`),
};
process.stdout.write(lists[process.argv[2]]().join('\n'));
