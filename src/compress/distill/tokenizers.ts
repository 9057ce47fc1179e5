/** Whether two tokenizers mean the same by an id. */
import { AttributeError } from '../../errors.js';
import type { Tokenizer } from '../../tokenizer/tokenizer.js';
import { formatValue } from '../../util/format.js';

/** @internal @throws AttributeError naming the first id that stands for something else */
export function checkTokenizers(op: string, student: Tokenizer, teacher: Tokenizer): void {
  const hint = 'Logits of two vocabularies cannot be compared: distil through text instead (generateCorpus)';
  const argument = 'tokenizers';
  if (student.vocabSize !== teacher.vocabSize) {
    const expected = `${student.vocabSize} tokens, as the student's tokenizer has`;
    throw new AttributeError({ op, argument, expected, actual: String(teacher.vocabSize), hint });
  }
  if (student === teacher) return;
  for (let id = 0; id < student.vocabSize; id++) {
    const [own, other] = [student.idToToken(id), teacher.idToToken(id)];
    if (own === other) continue;
    const expected = `${formatValue(own)} for id ${id}, as in the student's tokenizer`;
    throw new AttributeError({ op, argument, expected, actual: formatValue(other), hint });
  }
}
