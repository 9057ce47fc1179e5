/**
 * Questions and answers that are made of the declaration files of TypeScript: "What does Array.push do?" is answered by what the comment
 * above its declaration says.
 */
import ts from 'typescript';

/** A conversation, as a line of the JSON Lines that `--data` takes. */
export interface Conversation {
  readonly messages: readonly { readonly role: 'system' | 'user' | 'assistant'; readonly content: string }[];
}

export interface Question {
  /** The interface or namespace, or the name itself. */
  readonly owner: string;
  readonly question: string;
  readonly answer: string;
  /** Where comments say just that, overloads included: to be cut out of what a model reads beforehand. */
  readonly places: readonly { readonly file: string; readonly start: number; readonly end: number }[];
}

const [SHORTEST, LONGEST] = [15, 220];

/** The first sentences of a comment, without markup. Null where it says too little, or goes on too long. */
function answerOf(comment: string): string | null {
  const text = comment
    .split(/\n\s*\n/)[0]!
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/[*`]/g, '')
    .replace(/\s+/g, ' ')
    .replace(/\s*MDN Reference\s*$/, '')
    .trim();
  const sentences = text.match(/[^.]+(?:\.(?!\s)[^.]*)*(?:\.|$)/g) ?? [];
  let answer = '';
  for (const sentence of sentences) if ((answer + sentence).length <= LONGEST) answer += sentence;
  const whole = answer.trim();
  return whole.length >= SHORTEST && /^[A-Z].*\.$/.test(whole) ? whole : null;
}

const nameOf = (node: ts.Node): string | null => {
  const { name } = node as { readonly name?: ts.Node };
  return name !== undefined && ts.isIdentifier(name) ? name.text : null;
};

/** Questions about everything that has a comment. Each answer is there once: the same comment stands above many declarations. */
export function makeQuestions(files: ReadonlyMap<string, string>): Question[] {
  const questions = new Map<string, Question>();
  const places = new Map<string, { file: string; start: number; end: number }[]>();
  for (const [file, text] of files) {
    const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
    const note = (node: ts.Node, owner: string | null): void => {
      const name = nameOf(node);
      const doc = ts.getJSDocCommentsAndTags(node).find((part) => ts.isJSDoc(part));
      if (name === null || doc === undefined) return;
      const answer = answerOf(ts.getTextOfJSDocComment(doc.comment) ?? '');
      const full = owner === null ? name : `${owner}.${name}`;
      const does = ts.isMethodSignature(node) || ts.isFunctionDeclaration(node);
      const question = does ? `What does ${full} do?` : `What is ${full}?`;
      if (answer === null) return;
      const place = { file, start: doc.pos, end: doc.end };
      const known = places.get(answer);
      if (known !== undefined) known.push(place);
      else {
        places.set(answer, [place]);
        if (!questions.has(question)) {
          questions.set(question, { owner: owner ?? name, question, answer, places: places.get(answer)! });
        }
      }
    };
    for (const statement of source.statements) {
      if (ts.isInterfaceDeclaration(statement)) {
        note(statement, null);
        for (const member of statement.members) note(member, statement.name.text);
      } else if (ts.isVariableStatement(statement) || ts.isFunctionDeclaration(statement)) {
        note(statement, null);
      }
    }
  }
  return [...questions.values()];
}

export const asConversation = ({ question, answer }: Question): Conversation => ({
  messages: [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ],
});

/** Holds back every `every`-th owner with all of its questions, so that no neighbour of what is asked was trained on. */
export function splitQuestions(questions: readonly Question[], every = 10): { train: Question[]; held: Question[] } {
  const owners = new Map([...new Set(questions.map(({ owner }) => owner))].map((owner, i) => [owner, i]));
  const isHeld = ({ owner }: Question): boolean => owners.get(owner)! % every === every - 1;
  return { train: questions.filter((one) => !isHeld(one)), held: questions.filter(isHeld) };
}

/** The files without any comment that answers the questions: a model that reads them knows none of these answers. */
export function withoutAnswers(files: ReadonlyMap<string, string>, held: readonly Question[]): string[] {
  return [...files].map(([file, text]) => {
    const places = held.flatMap((one) => one.places).filter((place) => place.file === file);
    return places
      .sort((a, b) => b.start - a.start)
      .reduce((rest, { start, end }) => rest.slice(0, start) + rest.slice(end).trimStart(), text);
  });
}
