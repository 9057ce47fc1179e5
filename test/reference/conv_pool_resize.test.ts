/** Convolution, pooling, resampling, padding: against PyTorch. */
import * as og from '../../src/index.js';
import { testGroup, type Attributes, type Operation } from '../helpers/reference.js';

const transposed = (a: Attributes): og.ConvTranspose2dOptions & og.ConvTranspose1dOptions => ({
  stride: a.stride,
  padding: a.padding,
  outputPadding: a.output_padding ?? 0,
});
const geometry = (a: Attributes): og.Conv2dOptions & og.Conv1dOptions => ({
  stride: a.stride,
  padding: a.padding,
  dilation: a.dilation,
  groups: a.groups,
});

const operations: Record<string, Operation> = {
  conv1d: ({ x, w, b }, a) => og.conv1d(x!, w!, b!, geometry(a)),
  conv2d: ({ x, w, b }, a) => og.conv2d(x!, w!, b!, geometry(a)),
  conv_transpose1d: ({ x, w, b }, a) => og.convTranspose1d(x!, w!, b!, transposed(a)),
  conv_transpose2d: ({ x, w, b }, a) => og.convTranspose2d(x!, w!, b!, transposed(a)),
  max_pool2d: ({ x }, a) => og.maxPool2d(x!, a.kernel, { stride: a.stride, padding: a.padding }),
  avg_pool2d: ({ x }, a) =>
    og.avgPool2d(x!, a.kernel, { stride: a.stride, padding: a.padding, countIncludePad: a.count_include_pad ?? true }),
  adaptive_avg_pool2d: ({ x }, a) => og.adaptiveAvgPool2d(x!, a.output),
  interpolate: ({ x }, a) =>
    og.interpolate(x!, {
      size: a.size,
      mode: a.mode,
      alignCorners: a.align_corners ?? false,
      antialias: a.antialias ?? false,
    }),
  pad: ({ x }, a) => og.pad(x!, a.pad, { mode: a.mode, value: a.value ?? 0 }),
  im2col: ({ x }, a) => og.unfold(x!, a.kernel, { padding: a.padding, stride: a.stride }),
};

testGroup('ops/ops_conv_pool_resize', operations);
