/** Personal data: what is found, what is confirmed by check digits, and what is left alone. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isIbanValid, isLuhnValid, redact, type RedactOptions } from '../../src/data/index.js';

function redacted(text: string, options: RedactOptions = {}): [string, Record<string, number>] {
  const result = redact(options).process({ id: 'a', text });
  assert.ok(!(result instanceof Promise));
  return [result.documents[0]!.text, { ...result.counts }];
}

describe('check digits', () => {
  test('Luhn: published test numbers pass; any changed digit and most swaps fail', () => {
    for (const good of [
      '4111 1111 1111 1111',
      '5555-5555-5555-4444',
      '378282246310005',
      '6011111111111117',
      '79927398713',
    ]) {
      assert.ok(isLuhnValid(good), good);
      for (let i = 0; i < good.length; i++) {
        if (!/\d/.test(good[i]!)) continue;
        const other = good.slice(0, i) + String((Number(good[i]) + 1) % 10) + good.slice(i + 1);
        assert.ok(!isLuhnValid(other), other);
      }
    }
    assert.ok(!isLuhnValid('') && !isLuhnValid('4111a'));
  });

  test('IBAN: examples of the registry pass, changed ones fail', () => {
    // SWIFT IBAN registry
    const examples = [
      'GB29 NWBK 6016 1331 9268 19', 'DE89370400440532013000', 'FR14 2004 1010 0505 0001 3M02 606', 'NO93 8601 1117 947',
      'CH93 0076 2011 6238 5295 7', 'MT84MALT011000012345MTLCAST001S', 'SA03 8000 0000 6080 1016 7519',
    ]; // prettier-ignore
    for (const iban of examples) {
      assert.ok(isIbanValid(iban), iban);
      const last = iban.at(-1)!;
      assert.ok(!isIbanValid(iban.slice(0, -1) + (last === '1' ? '2' : '1')), iban);
      assert.ok(!isIbanValid(iban.slice(0, -1)), iban);
    }
  });
});

describe('redact', () => {
  test('replaces each kind and counts', () => {
    const [text, counts] = redacted(
      'Mail jane.doe+x@mail.example.org, call +44 20 7946 0958 or (555) 234-5678. Card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00. ' +
        'SSN 123-45-6789. From 8.8.8.8 and 2001:4860:4860::8888.',
    );
    assert.equal(
      text,
      'Mail <EMAIL>, call <PHONE> or <PHONE>. Card <CREDIT_CARD>, IBAN <IBAN>. SSN <SSN>. From <IP_ADDRESS> and <IP_ADDRESS>.',
    );
    assert.deepEqual(counts, { email: 1, iban: 1, creditCard: 1, ssn: 1, ipv6: 1, ipv4: 1, phone: 2 });
  });

  test('leaves what only looks like it', () => {
    for (const text of [
      'Order 4111 1111 1111 1112 is no card.',
      'In 1812 there were 123-45 reasons, 3.141592653589793 and 12:30:45.',
      'Version 1.2.3.4.5, 300.1.2.3, 127.0.0.1 and 192.168.1.1 and fe80::1.',
      '000-12-3456 and 666-12-3456 are no security numbers.',
      'a @ b, user@localhost, std::vector, http://x.y:8080/',
      'XX12 3456 7890 1234',
    ])
      assert.equal(redacted(text)[0], text);
    assert.equal(redacted('at 192.168.1.1', { keepPrivateIp: false })[0], 'at <IP_ADDRESS>');
  });

  test('an IBAN before a word in capitals is cut where its country says', () => {
    assert.equal(redacted('NO93 8601 1117 947 BANK')[0], '<IBAN> BANK');
  });

  test('takes some kinds only, and other placeholders', () => {
    const [text] = redacted('a@b.com 8.8.8.8', { kinds: ['email'], placeholders: { email: '[mail]' } });
    assert.equal(text, '[mail] 8.8.8.8');
    assert.throws(() => redact({ kinds: ['name' as 'email'] }), { code: 'OG_ATTRIBUTE' });
  });

  test('takes linear time on hostile text', () => {
    const begun = performance.now();
    for (const piece of ['a.', '1 ', '1-', 'a@', '::', 'DE12', '(555) ', 'a-', '+1'])
      redacted(piece.repeat(50_000 / piece.length));
    assert.ok(performance.now() - begun < 3000, `${performance.now() - begun} ms`);
  });
});
