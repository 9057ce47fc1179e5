import { batchNorm, groupNorm, layerNorm, normalize, rmsNorm } from '../../src/ops/norm.js';
import { logsumexp, logSoftmax, softmax } from '../../src/ops/softmax.js';
import { testGroup } from '../helpers/reference.js';

testGroup('ops/ops_softmax_norm', {
  softmax: ({ x }, { dim }) => softmax(x!, dim),
  log_softmax: ({ x }, { dim }) => logSoftmax(x!, dim),
  logsumexp: ({ x }, { dim, keepdim }) => logsumexp(x!, dim, { keepDims: keepdim }),
  layer_norm: ({ x, w, b }, { normalized_shape, eps }) => layerNorm(x!, normalized_shape, w, b, eps),
  rms_norm: ({ x, w }, { normalized_shape, eps }) => rmsNorm(x!, normalized_shape, w, eps),
  group_norm: ({ x, w, b }, { num_groups, eps }) => groupNorm(x!, num_groups, w, b, eps),
  batch_norm: ({ x, rm, rv, w, b }, { training, momentum, eps }) => {
    const y = batchNorm(x!, rm!, rv!, w, b, { training, momentum, eps });
    return { y, new_rm: rm!, new_rv: rv! };
  },
  l2_normalize: ({ x }, { dim, eps }) => normalize(x!, { axes: dim, eps }),
});
